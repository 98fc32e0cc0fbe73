{
  services.firstlight = {
    enable = true;
    openFirewall = true;
    credentials.tsig = "/run/agenix/tsig";
    settings = {
      dns = {
        listen = [
          "192.168.7.2:53"
          "[fd00:77::2]:53"
          "127.0.0.1:53"
        ];
        clients = [ "192.168.7.0/24" ];
        validate = true;
        stale = 86400;
      };
      nts.listen = [ ];
      tls.name = "dns.example.org";
      acme = {
        agree = true;
        names = [
          "dns.example.org"
          "*.pi1.example.org"
        ];
        update = {
          address = "192.0.2.1";
          zone = "example.org";
          key_name = "acme-key";
          key_file = "/run/credentials/firstlight.service/tsig";
        };
      };
      upstream = [
        {
          name = "dns.quad9.net";
          addresses = [
            "9.9.9.9"
            "2620:fe::fe"
          ];
        }
        {
          name = "dns.google";
          operator = "google";
          addresses = [ "8.8.8.8" ];
          transport = "doh";
          method = "get";
        }
      ];
      clock = {
        quorum = 3;
        holdover_drift = 2;
      };
      metered.interfaces = [ "wwan0" ];
      name = [
        {
          name = "nas.home.lan";
          addresses = [ "192.168.7.9" ];
        }
        {
          name = "*.apps.home.lan";
          cname = "nas.home.lan";
        }
      ];
    };
  };
}
