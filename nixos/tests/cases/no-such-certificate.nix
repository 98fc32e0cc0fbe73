{
  services.firstlight = {
    enable = true;
    acmeHost = "dns.example.org";
    settings.acme.agree = true;
    settings.state.directory = "/srv/firstlight";
  };
}
