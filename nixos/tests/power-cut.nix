# The power goes, and comes back with the clock in 1970: `nix flake check` boots it, where there is KVM.
#
# Three machines tell the time, of three operators by their addresses. The box has neither an upstream nor a
# battery.
let
  server = address: {
    networking.useDHCP = false;
    networking.interfaces.eth1.ipv4.addresses = [
      {
        inherit address;
        prefixLength = 8;
      }
    ];
    networking.firewall.enable = false;
    services.timesyncd.enable = false;
    services.chrony = {
      enable = true;
      servers = [ ];
      extraConfig = ''
        local stratum 2
        allow all
      '';
    };
  };
in
{
  name = "firstlight-power-cut";

  nodes = {
    first = server "10.1.0.1";
    second = server "10.2.0.1";
    third = server "10.3.0.1";

    box =
      { pkgs, ... }:
      {
        imports = [ ../module.nix ];
        virtualisation.qemu.options = [ "-rtc base=1970-01-02T00:00:00,clock=vm" ];
        networking.useDHCP = false;
        networking.interfaces.eth1.ipv4.addresses = [
          {
            address = "10.9.0.1";
            prefixLength = 8;
          }
        ];
        environment.systemPackages = [ pkgs.dnsutils ];
        services.firstlight = {
          enable = true;
          settings = {
            upstream = [ ];
            clock.source = [
              { address = "10.1.0.1"; }
              { address = "10.2.0.1"; }
              { address = "10.3.0.1"; }
            ];
            name = [
              {
                name = "box.home.lan";
                addresses = [ "10.9.0.1" ];
              }
            ];
          };
        };
      };
  };

  testScript = ''
    def names_before_time():
        box.wait_for_unit("firstlight.service")
        assert "10.9.0.1" in box.succeed("dig +short +tries=1 @127.0.0.1 box.home.lan")
        box.fail("systemctl is-active --quiet time-sync.target")


    def time_at_last():
        box.wait_for_unit("time-sync.target")
        box.succeed("systemctl is-active --quiet firstlight-wait-clock.service")
        box.succeed("firstlight health clock")
        year = int(box.succeed("date +%Y"))
        assert year > 2025, f"it is {year}"


    box.start()
    names_before_time()
    for server in [first, second, third]:
        server.start()
    time_at_last()

    # The cut: nothing is written in haste.
    for machine in [first, second, third, box]:
        machine.crash()
    box.start()
    names_before_time()
    for server in [first, second, third]:
        server.start()
    time_at_last()

    with subtest("a daemon that stands still is started again"):
        box.succeed("systemctl kill --signal=STOP firstlight.service")
        box.wait_until_succeeds("test $(systemctl show -P NRestarts firstlight.service) -ge 1", timeout=90)
        box.wait_until_succeeds("dig +short +tries=1 @127.0.0.1 box.home.lan | grep -q 10.9.0.1")
  '';
}
