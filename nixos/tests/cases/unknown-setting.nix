# What has no type here the program finds.
{
  services.firstlight = {
    enable = true;
    settings.dns.stail = 86400;
  };
}
