# services.mtasts-daemon.enable = true; with Postfix on the same host, smtp_tls_policy_maps is set too.
# Evaluated with the library of nixpkgs and stubs of the options of NixOS; never built or booted.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.services.mtasts-daemon;
  format = pkgs.formats.yaml { };
  configFile = format.generate "mtasts-daemon.yml" cfg.settings;
  mapName =
    if lib.versionAtLeast config.services.postfix.package.version "3.10" then "postfix-tlsrpt" else "postfix";
in
{
  options.services.mtasts-daemon = {
    enable = lib.mkEnableOption "mtasts-daemon, a Postfix policy server for MTA-STS, DANE and TLS reporting";

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The package to run.";
    };

    settings = lib.mkOption {
      type = lib.types.submodule { freeformType = format.type; };
      default = { };
      example = {
        dns.resolvers = [ "127.0.0.1" ];
      };
      description = "The configuration; mtasts-daemon.yml(5) lists the keys. Secrets belong in files that it names.";
    };

    configurePostfix = lib.mkOption {
      type = lib.types.bool;
      default = config.services.postfix.enable;
      defaultText = lib.literalExpression "config.services.postfix.enable";
      description = "Whether to set smtp_tls_policy_maps in main.cf.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."mtasts-daemon/config.yml".source = configFile;
    systemd.packages = [ cfg.package ];

    users.users._mtasts = {
      isSystemUser = true;
      group = "_mtasts";
      description = "MTA-STS policy daemon";
    };
    users.groups._mtasts = { };

    systemd.sockets = {
      mtasts-daemon.wantedBy = [ "sockets.target" ];
      mtasts-daemon-postfix = lib.mkIf config.services.postfix.enable {
        wantedBy = [ "sockets.target" ];
        # Postfix makes its queue directory only after the sockets; systemd makes the socket's. An empty value removes
        # the one in the unit.
        unitConfig.ConditionPathIsDirectory = [ "" ];
        socketConfig.ListenStream = [
          ""
          "/var/lib/postfix/queue/run/mtasts/lookup.sock"
        ];
      };
    };

    systemd.services.mtasts-daemon = {
      wantedBy = [ "multi-user.target" ];
      reloadTriggers = [ configFile ];
    };

    services.postfix = lib.mkIf cfg.configurePostfix {
      # By default NixOS sets smtp_tls_security_level = may and smtp_tls_CAfile.
      settings.main.smtp_tls_policy_maps = [ "socketmap:unix:run/mtasts/lookup.sock:${mapName}" ];
    };
  };
}
