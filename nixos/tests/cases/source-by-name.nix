{
  services.firstlight = {
    enable = true;
    settings.clock.source = [ { address = "time.example.net"; } ];
  };
}
