# services.mtasts-daemon.enable = true; with Postfix on the same host, main.cf is set too.
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
  queue = "/var/lib/postfix/queue";
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
      description = "Whether to set smtp_tls_policy_maps and what goes with it in main.cf.";
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
      mtasts-daemon-postfix = {
        wantedBy = [ "sockets.target" ];
        # The queue directory of NixOS. An empty value removes the one in the unit.
        unitConfig.ConditionPathIsDirectory = [
          ""
          queue
        ];
        socketConfig.ListenStream = [
          ""
          "${queue}/run/mtasts/lookup.sock"
        ];
      };
    };

    systemd.services.mtasts-daemon = {
      wantedBy = [ "multi-user.target" ];
      reloadTriggers = [ configFile ];
    };

    services.postfix = lib.mkIf cfg.configurePostfix {
      settings.main = {
        smtp_tls_policy_maps = [ "socketmap:unix:run/mtasts/lookup.sock:${mapName}" ];
        smtp_tls_security_level = lib.mkDefault "may";
        smtp_tls_CAfile = lib.mkDefault "/etc/ssl/certs/ca-certificates.crt";
      };
    };
  };
}
