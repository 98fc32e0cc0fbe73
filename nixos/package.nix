{
  lib,
  rustPlatform,
}:
rustPlatform.buildRustPackage {
  pname = "firstlight";
  version = (lib.importTOML ../Cargo.toml).package.version;

  src = lib.fileset.toSource {
    root = ../.;
    # cargo wants to see the tests and benchmarks that its manifest names.
    fileset = lib.fileset.unions [
      ../Cargo.lock
      ../Cargo.toml
      ../README.md
      ../benches
      ../config
      ../docs
      ../packaging
      ../src
      ../tests
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;
  # The profile of Cargo.toml that is made for small disks.
  buildType = "packaged";

  # They start daemons, and other people's: .ci/run runs them.
  doCheck = false;

  meta = {
    description = (lib.importTOML ../Cargo.toml).package.description;
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "firstlight";
    platforms = lib.platforms.linux;
  };
}
