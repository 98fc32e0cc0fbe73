{
  services.chrony.enable = true;
  services.ntpd-rs.enable = true;
  services.firstlight.enable = true;
}
