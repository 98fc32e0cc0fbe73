# The module with one case of cases/, evaluated with the library of nixpkgs alone:
#
#     nix-instantiate --eval --strict --json nixos/tests/eval.nix \
#       --arg nixpkgsLib "$NIXPKGS_LIB/lib" --arg case ./nixos/tests/cases/full.nix
{ nixpkgsLib, case }:
let
  lib = import nixpkgsLib;
  # A package that nobody builds.
  fake =
    name: more:
    {
      type = "derivation";
      outPath = "/nix/store/00000000000000000000000000000000-${name}";
    }
    // more;
  pkgs = {
    callPackage =
      file: _:
      import file {
        inherit lib;
        rustPlatform.buildRustPackage = given: fake given.pname given;
      };
    formats.toml = _: {
      type =
        let
          value =
            with lib.types;
            oneOf [
              bool
              int
              float
              str
              path
              (attrsOf value)
              (listOf value)
            ]
            // {
              description = "TOML value";
            };
        in
        value;
      generate = name: _: fake name { };
    };
    runCommand =
      name: _: script:
      fake "checked-${name}" { inherit script; };
    stdenv = {
      buildPlatform.canExecute = _: true;
      hostPlatform = { };
    };
  };
  evaluated = lib.evalModules {
    modules = [
      ./stubs.nix
      ../module.nix
      case
      { _module.args = { inherit pkgs; }; }
    ];
  };
  inherit (evaluated) config;
  unit = name: builtins.removeAttrs config.systemd.services.${name} [ "reloadTriggers" ];
  documented = lib.filter (
    option: lib.hasPrefix "services.firstlight" option.name && option.visible && !option.internal
  ) (lib.optionAttrSetToDocList evaluated.options);
in
{
  failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  inherit (config) warnings;
  inherit (config.services.firstlight) settings;
  file = config.environment.etc."firstlight/firstlight.toml".source.outPath;
  check = config.environment.etc."firstlight/firstlight.toml".source.script or "";
  daemon = unit "firstlight";
  wait = config.systemd.services ? firstlight-wait-clock;
  users = lib.attrNames config.users.users;
  host = {
    inherit (config.networking) nameservers firewall;
    localResolver = config.networking.resolvconf.useLocalResolver;
    resolved = config.services.resolved.enable;
    timesyncd = config.services.timesyncd.enable;
  };
  package = {
    inherit (config.services.firstlight.package) pname version doCheck;
    inherit (config.services.firstlight.package.meta) mainProgram description;
    license = map (license: license.spdxId) config.services.firstlight.package.meta.license;
  };
  undescribed = map (option: option.name) (lib.filter (option: !(option ? description)) documented);
  options = lib.length documented;
}
