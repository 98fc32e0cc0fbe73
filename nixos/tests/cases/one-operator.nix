{
  services.firstlight = {
    enable = true;
    settings.clock.source = [
      { address = "192.0.2.1"; }
      { address = "192.0.2.2"; }
      { address = "192.0.7.3"; }
    ];
  };
}
