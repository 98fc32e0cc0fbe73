# As systemd-networkd's module has it.
{ lib, ... }:
{
  services.resolved.enable = lib.mkDefault true;
  services.firstlight.enable = true;
}
