{
  security.acme.certs."dns.example.org".group = "certificates";
  services.firstlight = {
    enable = true;
    acmeHost = "dns.example.org";
  };
}
