{
  services.firstlight = {
    enable = true;
    settings.dns.listen = [ "192.168.7.2" ];
  };
}
