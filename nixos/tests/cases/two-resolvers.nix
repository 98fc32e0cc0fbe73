{
  services.resolved.enable = true;
  services.firstlight.enable = true;
  services.firstlight.settings.dns.listen = [ "192.168.7.2:53" ];
}
