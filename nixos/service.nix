# The systemd unit's [Service] section, which is that of packaging/systemd/firstlight.service. It takes no
# library, so that tests/units.rs can compare the two with nothing but Nix.
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
in
{
  Type = "notify";
  ExecStart = "${exe} run --config ${file}";
  ExecReload = "${exe} reload --config ${file}";
  Restart = "always";
  RestartSec = "200ms";
  TimeoutStartSec = 30;
  TimeoutStopSec = 20;
  WatchdogSec = 30;

  User = "firstlight";
  Group = "firstlight";
  StateDirectory = "firstlight";
  StateDirectoryMode = "0700";
  RuntimeDirectory = "firstlight";
  RuntimeDirectoryMode = "0755";
  # The time outlives a restart, and goes with the boot.
  RuntimeDirectoryPreserve = "yes";
  UMask = "0077";

  AmbientCapabilities = capabilities;
  CapabilityBoundingSet = capabilities;
  NoNewPrivileges = true;

  SystemCallArchitectures = "native";
  SystemCallFilter = [
    "@system-service"
    "~@privileged @resources"
  ]
  ++ [ (if steers then "@clock capset" else "capset") ];
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
  RestrictAddressFamilies = [
    "AF_INET"
    "AF_INET6"
    "AF_NETLINK"
    "AF_UNIX"
  ];
  RestrictNamespaces = true;
  RestrictRealtime = true;
  RestrictSUIDSGID = true;
  LockPersonality = true;
  MemoryDenyWriteExecute = true;
  RemoveIPC = true;
  KeyringMode = "private";

  OOMScoreAdjust = -600;
  MemoryMax = "384M";
  TasksMax = 512;
  LimitNOFILE = 16384;
  LimitCORE = 0;
}
// (if steers then { } else { ProtectClock = true; })
