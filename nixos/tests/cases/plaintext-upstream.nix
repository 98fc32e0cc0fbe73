{
  services.firstlight = {
    enable = true;
    settings.upstream = [
      {
        name = "router.lan";
        addresses = [ "192.168.7.1" ];
        transport = "udp";
      }
    ];
  };
}
