{
  services.chrony.enable = true;
  services.firstlight = {
    enable = true;
    settings.clock.mode = "observe";
    settings.ntp.listen = [ ];
  };
}
