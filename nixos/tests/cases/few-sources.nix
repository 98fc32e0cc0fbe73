{
  services.firstlight = {
    enable = true;
    settings.clock.source = [
      { address = "192.0.2.1"; }
      { address = "198.51.100.1"; }
      {
        address = "203.0.113.1";
        noselect = true;
      }
    ];
  };
}
