# What NixOS itself declares, as far as the module touches it: the tests have its library and not its modules.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  names = option (types.listOf types.str) [ ];
  enable = mkOption {
    type = types.bool;
    default = false;
  };
  service = types.submodule {
    options = {
      description = option types.singleLineStr "";
      wantedBy = names;
      requisite = names;
      wants = names;
      after = names;
      before = names;
      conflicts = names;
      stopIfChanged = option types.bool true;
      startLimitIntervalSec = option (types.nullOr types.int) null;
      reloadTriggers = option (types.listOf types.unspecified) [ ];
      environment = option (types.attrsOf types.str) { };
      serviceConfig = option (types.attrsOf types.unspecified) { };
    };
  };
in
{
  options = {
    assertions = option (types.listOf types.unspecified) [ ];
    warnings = names;
    environment.etc = option (types.attrsOf (
      types.submodule { options.source = mkOption { type = types.unspecified; }; }
    )) { };
    environment.systemPackages = option (types.listOf types.unspecified) [ ];
    networking.nameservers = names;
    networking.resolvconf.useLocalResolver = enable;
    networking.firewall.allowedTCPPorts = option (types.listOf types.port) [ ];
    networking.firewall.allowedUDPPorts = option (types.listOf types.port) [ ];
    security.acme.certs = option (types.attrsOf (
      types.submodule (
        { name, ... }:
        {
          options.directory = option types.str "/var/lib/acme/${name}";
          options.group = option types.str "acme";
        }
      )
    )) { };
    services.chrony.enable = enable;
    services.ntp.enable = enable;
    services.ntpd-rs.enable = enable;
    services.openntpd.enable = enable;
    services.resolved.enable = enable;
    services.timesyncd.enable = option types.bool true;
    systemd.services = option (types.attrsOf service) { };
    users.users = option (types.attrsOf types.unspecified) { };
    users.groups = option (types.attrsOf types.unspecified) { };
  };
}
