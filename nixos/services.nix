# The [Service] sections of the systemd units, which are those of packaging/systemd. They take no library, so
# that tests/units.rs can compare them with nothing but Nix.
{
  # The program.
  exe,
  # The configuration.
  file ? "/etc/firstlight/firstlight.toml",
  # Whether the machine's clock is steered.
  steers ? true,
}:
let
  capabilities = [ "CAP_NET_BIND_SERVICE" ] ++ (if steers then [ "CAP_SYS_TIME" ] else [ ]);
  # What neither of them needs.
  fence = {
    User = "firstlight";
    Group = "firstlight";
    UMask = "0077";
    NoNewPrivileges = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    ProtectSystem = "strict";
    ProtectHome = true;
    PrivateTmp = true;
    PrivateDevices = true;
    ProtectHostname = true;
    ProtectKernelTunables = true;
    ProtectKernelModules = true;
    ProtectKernelLogs = true;
    ProtectControlGroups = true;
    ProtectProc = "invisible";
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
  };
  calls = [
    "@system-service"
    "~@privileged @resources"
  ];
in
{
  daemon =
    fence
    // {
      Type = "notify";
      ExecStart = "${exe} run --config ${file}";
      ExecReload = "${exe} reload --config ${file}";
      Restart = "always";
      RestartSec = "200ms";
      TimeoutStartSec = 30;
      TimeoutStopSec = 20;
      WatchdogSec = 30;

      StateDirectory = "firstlight";
      StateDirectoryMode = "0700";
      RuntimeDirectory = "firstlight";
      RuntimeDirectoryMode = "0755";
      # The time outlives a restart, and goes with the boot.
      RuntimeDirectoryPreserve = "yes";

      AmbientCapabilities = capabilities;
      CapabilityBoundingSet = capabilities;
      # Without capset a hook of [acme.hook] would not be rid of capabilities.
      SystemCallFilter = calls ++ [ (if steers then "@clock capset" else "capset") ];
      RestrictAddressFamilies = [
        "AF_INET"
        "AF_INET6"
        "AF_NETLINK"
        "AF_UNIX"
      ];
      RemoveIPC = true;
      KeyringMode = "private";

      OOMScoreAdjust = -600;
      MemoryMax = "384M";
      TasksMax = 512;
      LimitNOFILE = 16384;
      LimitCORE = 0;
    }
    // (if steers then { } else { ProtectClock = true; });

  wait = fence // {
    Type = "oneshot";
    RemainAfterExit = true;
    # Then the target is reached all the same: an outage must not keep everything else down for days.
    ExecStart = "${exe} wait-clock --timeout 600 --config ${file}";
    TimeoutStartSec = 610;

    CapabilityBoundingSet = "";
    SystemCallFilter = calls;
    PrivateNetwork = true;
    ProtectClock = true;
    RestrictAddressFamilies = [ "AF_UNIX" ];
  };
}
