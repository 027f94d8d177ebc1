# callPackage ./packaging/nix/package.nix { }; evaluated with the library of nixpkgs, never built.
{
  lib,
  python3Packages,
}:

python3Packages.buildPythonApplication {
  pname = "mtasts-daemon";
  version = "1.0.0";
  pyproject = true;

  src = lib.cleanSource ../..;

  build-system = [ python3Packages.hatchling ];

  dependencies = with python3Packages; [
    aiohttp
    aiosmtpd
    cryptography
    dkimpy
    dnspython
    idna
    prometheus-client
    pydantic
    pyyaml
    uvloop
    yarl
  ];

  # The tests need more libraries and a loopback network; `make test-unit` runs them.
  doCheck = false;
  pythonImportsCheck = [ "mtasts_daemon.cli.main" ];

  postInstall = ''
    substituteInPlace $out/lib/systemd/system/mtasts-daemon.service --replace-fail /usr/bin/ $out/bin/
  '';

  meta = {
    description = "Postfix policy server for MTA-STS, DANE and TLS reporting";
    homepage = "https://mtasts-daemon.example/";
    license = lib.licenses.mit;
    mainProgram = "mtasts-daemon";
    platforms = lib.platforms.linux;
  };
}
