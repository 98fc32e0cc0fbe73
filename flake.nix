{
  description = "firstlight: DNS and NTP for a LAN, from a box that boots without knowing the time";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      eachSystem = nixpkgs.lib.genAttrs [
        "aarch64-linux"
        "x86_64-linux"
      ];
      pkgs = system: nixpkgs.legacyPackages.${system};
    in
    {
      nixosModules.default = import ./nixos/module.nix;

      packages = eachSystem (system: rec {
        firstlight = (pkgs system).callPackage ./nixos/package.nix { };
        default = firstlight;
      });

      # Boots virtual machines: `nix flake check`.
      checks = eachSystem (system: {
        power-cut = (pkgs system).testers.runNixOSTest (import ./nixos/tests/power-cut.nix);
      });
    };
}
