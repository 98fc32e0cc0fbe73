//! Sockets shared by the services: listeners, and datagrams that remember the address they came to.
