# services.firstlight: docs/install.md shows how to use it.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    mkDefault
    mkEnableOption
    mkForce
    mkIf
    mkMerge
    mkOption
    mkOverride
    optional
    types
    ;
  cfg = config.services.firstlight;
  format = pkgs.formats.toml { };

  # What the program takes without a configuration.
  builtIn = lib.importTOML ../config/default.toml;

  file = format.generate "firstlight.toml" cfg.settings;
  # The program that will read it looks at it first. What is not there while it is built, like
  # credentials and ports, counts as a doubt and not as a mistake.
  checked = pkgs.runCommand "firstlight.toml" { } ''
    ${lib.getExe cfg.package} check --config ${file}
    ln -s ${file} $out
  '';
  runsHere = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;
  configFile = if cfg.checkConfig && runsHere then checked else file;

  steers = cfg.settings.clock.mode == "steer";
  credentials = "/run/credentials/firstlight.service";

  services = import ./services.nix {
    exe = lib.getExe cfg.package;
    inherit steers;
  };

  ipv4 = "[0-9]{1,3}([.][0-9]{1,3}){3}";
  ipv6 = "[0-9a-fA-F]*:[0-9a-fA-F:.]+";
  literal = types.strMatching "${ipv4}|${ipv6}" // {
    description = "IP address (a name cannot stand here: nothing could look it up)";
  };
  socket = types.strMatching "(${ipv4}|[[]${ipv6}(%[A-Za-z0-9_.-]+)?]):[0-9]{1,5}" // {
    description = "address and port, like 0.0.0.0:53 or [::]:53";
  };
  portOf = address: lib.toInt (lib.last (lib.splitString ":" address));
  ports = addresses: lib.unique (map portOf addresses);

  listen =
    port: what:
    mkOption {
      type = types.listOf socket;
      default = [
        "0.0.0.0:${toString port}"
        "[::]:${toString port}"
      ];
      example = [ "192.168.7.2:${toString port}" ];
      description = "Where ${what} is served; `[ ]` switches it off.";
    };

  # Who errs together, as the program guesses it: the neighbourhood of the address.
  operatorOf =
    source:
    source.operator or (
      if lib.hasInfix ":" source.address then
        lib.concatStringsSep ":" (lib.take 2 (lib.splitString ":" source.address))
      else
        lib.concatStringsSep "." (lib.take 2 (lib.splitString "." source.address))
    );
  counted = lib.filter (source: !(source.noselect or false)) cfg.settings.clock.source;
  operators = lib.unique (map operatorOf counted);
  # Clocks of one's own stand in for servers, if somebody wants that.
  refclocks = cfg.settings.clock.refclock or [ ];

  # Programs that steer the clock, by their options.
  clockPrograms = lib.filter (name: config.services.${name}.enable) [
    "chrony"
    "ntp"
    "ntpd-rs"
    "openntpd"
  ];

  # What a resolver of this machine is asked at.
  local = lib.any (
    address:
    lib.elem address [
      "0.0.0.0:53"
      "127.0.0.1:53"
      "[::]:53"
      "[::1]:53"
    ]
  ) cfg.settings.dns.listen;
in
{
  options.services.firstlight = {
    enable = mkEnableOption "firstlight, DNS and NTP for a LAN from a machine that boots without knowing the time";

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The package.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Opens the ports of every service that is listened for, on all interfaces.";
    };

    useAsLocalResolver = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Lets this machine itself ask firstlight for names, and switches
        {option}`services.resolved.enable` off.
      '';
    };

    checkConfig = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Has `firstlight check` look at the configuration while the system is built, so that one with
        mistakes is never switched to. Left out where the program cannot run on the builder.
      '';
    };

    credentials = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = {
        tsig = "/run/agenix/tsig";
      };
      description = ''
        Secret files, by name, handed over by systemd (`LoadCredential=`): nobody but the daemon reads
        them, and they are in no store. The settings name them as `${credentials}/NAME`. They are
        read at a start, so a changed one takes a restart.
      '';
    };

    acmeHost = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "dns.example.org";
      description = ''
        Serves the certificate of this entry of {option}`security.acme.certs`, in place of ordering one
        (`settings.acme`). It is read where it lies, by its group, and taken over within seconds when it
        is renewed; the daemon neither waits for it nor is it reloaded.
      '';
    };

    settings = mkOption {
      default = { };
      description = ''
        The configuration. Every key of {file}`config/firstlight.toml`, where they are explained, may
        stand here; those below have types, the rest is checked by the program.
      '';
      example = lib.literalExpression ''
        {
          dns.listen = [ "192.168.7.2:53" "127.0.0.1:53" ];
          tls.name = "dns.home.example";
          name = [ { name = "nas.home.lan"; addresses = [ "192.168.7.9" ]; } ];
        }
      '';
      type = types.submodule {
        freeformType = format.type;
        options = {
          dns.listen = listen 53 "plain DNS, over UDP and TCP,";
          dot.listen = listen 853 "DNS over TLS";
          doh.listen = listen 443 "DNS over HTTPS";
          doq.listen = listen 853 "DNS over QUIC";
          ntp.listen = listen 123 "the time (NTP)";
          nts.listen = listen 4460 "the key exchange of NTS";

          upstream = mkOption {
            type = types.listOf (
              types.submodule {
                freeformType = format.type;
                options = {
                  name = mkOption {
                    type = types.str;
                    example = "dns.quad9.net";
                    description = "The name in its certificate.";
                  };
                  addresses = mkOption {
                    type = types.nonEmptyListOf literal;
                    example = [ "9.9.9.9" ];
                    description = "Where it is.";
                  };
                  transport = mkOption {
                    type = types.enum [
                      "doh"
                      "doq"
                      "dot"
                    ];
                    default = "dot";
                    description = "How it is asked; always encrypted.";
                  };
                };
              }
            );
            default = builtIn.upstream;
            defaultText = lib.literalMD "the resolvers of three operators";
            description = "Whom to ask for names: two operators at least.";
          };

          clock.mode = mkOption {
            type = types.enum [
              "steer"
              "observe"
            ];
            default = "steer";
            description = ''
              `steer` sets and disciplines the clock of this machine. `observe` leaves it to another
              program, like chrony, and serves the time that is found beside it.
            '';
          };

          clock.source = mkOption {
            type = types.listOf (
              types.submodule {
                freeformType = format.type;
                options.address = mkOption {
                  type = literal;
                  example = "192.0.2.123";
                  description = "Where it is.";
                };
              }
            );
            default = builtIn.clock.source;
            defaultText = lib.literalMD "six servers of three operators";
            description = "NTP servers. Three must agree, of two operators at least, before the clock is set.";
          };
        };
      };
    };
  };

  config = mkIf cfg.enable (mkMerge [
    {
      assertions = [
        {
          assertion = steers -> clockPrograms == [ ];
          message = ''
            services.firstlight: two programs would steer the clock, firstlight and ${lib.concatStringsSep ", " clockPrograms}.
            Either take the other one out (services.${lib.concatStringsSep ".enable = false; services." clockPrograms}.enable = false;),
            or let it keep the clock: services.firstlight.settings.clock.mode = "observe";
          '';
        }
        {
          assertion = cfg.useAsLocalResolver -> !config.services.resolved.enable;
          message = ''
            services.firstlight: services.resolved.enable = true keeps systemd-resolved between this machine and firstlight.
            Remove it, or keep it as this machine's resolver: services.firstlight.useAsLocalResolver = false;
          '';
        }
        {
          assertion = cfg.useAsLocalResolver -> local;
          message = ''
            services.firstlight: this machine is to ask itself, and nothing listens there. Add "127.0.0.1:53" to
            services.firstlight.settings.dns.listen, or set services.firstlight.useAsLocalResolver = false;
          '';
        }
        {
          assertion = cfg.acmeHost != null -> config.security.acme.certs ? ${toString cfg.acmeHost};
          message = ''
            services.firstlight.acmeHost: security.acme.certs."${toString cfg.acmeHost}" does not exist. Define it, or have
            firstlight order certificates itself: services.firstlight.settings.acme
          '';
        }
        {
          assertion = cfg.acmeHost != null -> !(cfg.settings ? acme);
          message = ''
            services.firstlight: acmeHost serves the certificate of security.acme, settings.acme orders another. Remove one of them.
          '';
        }
        {
          assertion = lib.hasPrefix "/var/lib/firstlight" (
            cfg.settings.state.directory or "/var/lib/firstlight"
          );
          message = ''
            services.firstlight.settings.state.directory: the service may write below /var/lib/firstlight alone. Remove it.
          '';
        }
      ];

      warnings =
        optional (refclocks == [ ] && lib.length counted < 3) ''
          services.firstlight: ${toString (lib.length counted)} time sources are given by address, and three must agree before the clock
          is set. After a power cut it will wait for witnesses, and NTP clients for somebody to come home. Add some to
          services.firstlight.settings.clock.source, or remove it for the built-in ones.
        ''
        ++ optional (lib.length counted >= 3 && lib.length operators < 2) ''
          services.firstlight: all time sources are run by ${lib.concatStringsSep ", " operators}: whoever errs there sets this clock alone, so
          they count as one. Add a source of another operator to services.firstlight.settings.clock.source.
        '';

      users.users.firstlight = {
        isSystemUser = true;
        group = "firstlight";
      };
      users.groups.firstlight = { };

      environment.etc."firstlight/firstlight.toml".source = configFile;
      environment.systemPackages = [ cfg.package ];

      systemd.services.firstlight = {
        description = "DNS and NTP for the LAN (firstlight)";
        wantedBy = [ "multi-user.target" ];
        # Not after network-online.target or time-sync.target: without both it answers what it can, and it
        # is what the latter waits for.
        after = [ "network.target" ];
        wants = [ "nss-lookup.target" ] ++ optional steers "time-set.target";
        before = [ "nss-lookup.target" ] ++ optional steers "time-set.target";
        conflicts = optional steers "systemd-timesyncd.service";
        startLimitIntervalSec = 0;
        # A switch replaces the program in one go, and a changed configuration is read while it runs.
        stopIfChanged = false;
        reloadTriggers = [ configFile ];
        serviceConfig =
          services.daemon
          // lib.optionalAttrs (cfg.credentials != { }) {
            LoadCredential = lib.mapAttrsToList (name: path: "${name}:${path}") cfg.credentials;
          }
          // lib.optionalAttrs (cfg.acmeHost != null) {
            SupplementaryGroups = [ (config.security.acme.certs.${cfg.acmeHost}.group or "acme") ];
          };
      };
    }

    (mkIf steers {
      services.timesyncd.enable = mkForce false;
      systemd.services.systemd-timedated.environment.SYSTEMD_TIMEDATED_NTP_SERVICES = "firstlight.service";
      systemd.services.firstlight-wait-clock = {
        description = "Wait until firstlight has found the time";
        wantedBy = [ "multi-user.target" ];
        requisite = [ "firstlight.service" ];
        after = [ "firstlight.service" ];
        wants = [ "time-sync.target" ];
        before = [ "time-sync.target" ];
        serviceConfig = services.wait;
      };
    })

    (mkIf cfg.useAsLocalResolver {
      # Stronger than the default that systemd-networkd's module sets, weaker than what a person writes.
      services.resolved.enable = mkOverride 900 false;
      networking.nameservers = mkDefault [
        "127.0.0.1"
        "::1"
      ];
      networking.resolvconf.useLocalResolver = mkDefault true;
    })

    (mkIf (cfg.acmeHost != null) {
      services.firstlight.settings.tls =
        let
          folder = config.security.acme.certs.${cfg.acmeHost}.directory or "/var/lib/acme/${cfg.acmeHost}";
        in
        {
          name = mkDefault cfg.acmeHost;
          certificate = mkDefault "${folder}/fullchain.pem";
          key = mkDefault "${folder}/key.pem";
        };
    })

    (mkIf cfg.openFirewall {
      networking.firewall = with cfg.settings; {
        allowedTCPPorts = ports (dns.listen ++ dot.listen ++ doh.listen ++ nts.listen);
        allowedUDPPorts = ports (dns.listen ++ doq.listen ++ ntp.listen);
      };
    })
  ]);
}
