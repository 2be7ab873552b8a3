import { createHash, X509Certificate } from 'node:crypto';
import { createReadStream, type ReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ReefError } from '@reefkeeper/platform';

const names = ['reef-runtime', 'reef-agent', 'reef-images'] as const;
const packageFile = /^(reef-[a-z]+)_(\d[0-9A-Za-z.+~-]*)_(amd64|arm64)\.deb$/;

/** Debian packages for devices, in a folder that `npm run package:deb` has filled. Everybody may fetch them: there is no secret in them. */
export class DevicePackages {
  constructor(private readonly dir: string | undefined) {}

  /** Whether a device of some architecture can be set up from here. */
  async any(): Promise<boolean> {
    const files = await this.files();
    return files.some(({ name, architecture }) => name === 'reef-agent' && files.some((other) => other.name === 'reef-runtime' && other.architecture === architecture));
  }

  /** The newest. @throws ReefError `package.missing` */
  async open(name: string, architecture: string): Promise<{ bytes: number; file: string; content: ReadStream }> {
    const found = (await this.files()).filter((one) => one.name === name && one.architecture === architecture).sort((a, b) => newerFirst(a.version, b.version))[0];
    if (!found) throw new ReefError('package.missing', 'not_found', `This controller has no package ${name} for ${architecture}. Make it (npm run package:deb) and put it into the folder that AGENT_PACKAGES_DIR names.`);
    const path = join(this.dir!, found.file);
    return { bytes: (await stat(path)).size, file: found.file, content: createReadStream(path) };
  }

  private async files(): Promise<{ file: string; name: string; version: string; architecture: string }[]> {
    if (!this.dir) return [];
    const listed = await readdir(this.dir).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return [];
      throw error;
    });
    return listed.flatMap((file) => {
      const [, name, version, architecture] = packageFile.exec(file) ?? [];
      return names.some((one) => one === name) ? [{ file, name: name!, version: version!, architecture: architecture! }] : [];
    });
  }
}

/** Numbers as numbers; what is behind `~` comes before its release, as in Debian. */
function newerFirst(a: string, b: string): number {
  const parts = (version: string): string[] => version.split(/[.+-]/);
  const [left, right] = [parts(a), parts(b)];
  for (let at = 0; at < Math.max(left.length, right.length); at += 1) {
    const [x, y] = [left[at] ?? '', right[at] ?? ''];
    if (x === y) continue;
    const [numberX, numberY] = [Number.parseInt(x, 10) || 0, Number.parseInt(y, 10) || 0];
    if (numberX !== numberY) return numberY - numberX;
    return x.includes('~') !== y.includes('~') ? (x.includes('~') ? 1 : -1) : x < y ? 1 : -1;
  }
  return 0;
}

/** What `curl --pinnedpubkey` compares: with it, `-k` trusts this one key and nobody else. */
export function publicKeyPin(certificatePem: string): string {
  return `sha256//${createHash('sha256').update(new X509Certificate(certificatePem).publicKey.export({ type: 'spki', format: 'der' })).digest('base64')}`;
}

/**
 * The script behind `curl ... | sudo sh -s -- TOKEN`. It believes nobody but the authority whose fingerprint the token carries, as `reef-agent enrol` does
 * (apps/agent/src/identity.ts): the certificate is fetched without trust and compared, everything after comes over TLS under it.
 */
export function installScript(gatewayUrl: string): string {
  return `#!/bin/sh
# Brings this device into a Reefkeeper fleet: installs the agent's packages and enrols. A second run changes nothing but what is newer.
#   sh -s -- TOKEN [--id ID] [--without-images]
set -eu
gateway='${gatewayUrl.replace(/\/+$/, '').replaceAll("'", '')}'

fail() { printf 'error: %s\\n' "$*" >&2; exit 1; }

# A function, so that a script that was cut off on its way does nothing.
main() {
  token=\${1-} id= images=1
  [ $# -eq 0 ] || shift
  while [ $# -gt 0 ]; do
    case $1 in
      --id) id=\${2-}; shift 2 || fail '--id takes the id of the device' ;;
      --without-images) images=; shift ;;
      *) fail "unknown option $1; this takes TOKEN [--id ID] [--without-images]" ;;
    esac
  done
  case $token in reef1.*.*) ;; *) fail 'give the enrolment token that \`reef device enroll\` printed: ... | sudo sh -s -- reef1.SECRET.FINGERPRINT' ;; esac
  [ "$(id -u)" = 0 ] || fail 'this installs packages: run it as root (sudo sh -s -- TOKEN)'
  for tool in curl dpkg sha256sum base64; do command -v "$tool" >/dev/null || fail "this needs $tool, on Debian or a system made from it"; done
  arch=$(dpkg --print-architecture)
  case $arch in amd64 | arm64) ;; *) fail "there are packages for amd64 and arm64, not for $arch" ;; esac

  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' EXIT
  fingerprint=\${token##*.}
  curl -fsSk "$gateway/ca.pem" -o "$dir/ca.pem" || fail "the gateway $gateway cannot be reached; check the network"
  [ "$(grep -c 'BEGIN CERTIFICATE' "$dir/ca.pem")" = 1 ] || fail 'the gateway did not send one certificate'
  found=$(sed '/-----/d' "$dir/ca.pem" | base64 -d 2>/dev/null | sha256sum | cut -c "1-\${#fingerprint}")
  [ \${#fingerprint} -ge 32 ] && [ "$found" = "$fingerprint" ] || fail "$gateway does not belong to the authority that made this token (fingerprint $found, wanted $fingerprint); someone may be in between"

  packages='reef-runtime reef-agent'
  [ -z "$images" ] || packages="$packages reef-images"
  for name in $packages; do
    printf 'fetching %s for %s\\n' "$name" "$arch"
    curl -fsS --cacert "$dir/ca.pem" "$gateway/packages/$arch/$name.deb" -o "$dir/$name.deb" || fail "$gateway has no $name for $arch; its operator makes it with npm run package:deb"
  done
  # apt brings what the packages need; dpkg alone does where that is there.
  chmod 755 "$dir" && chmod 644 "$dir"/*.deb
  export DEBIAN_FRONTEND=noninteractive
  if command -v apt-get >/dev/null; then
    apt-get install -y -qq --no-install-recommends "$dir"/*.deb >"$dir/log" 2>&1 || { cat "$dir/log" >&2; fail 'the packages could not be installed'; }
  else
    dpkg -i "$dir"/*.deb || fail 'the packages could not be installed'
  fi
  reef-agent enrol --gateway "$gateway" --token "$token" \${id:+--id "$id"}
}

main "$@"
`;
}

/** The line a person runs on the device. */
export function installLine(gatewayUrl: string, pin: string, token: string, id?: string): string {
  return `curl -fsSLk --pinnedpubkey '${pin}' ${gatewayUrl.replace(/\/+$/, '')}/install.sh | sudo sh -s -- ${token}${id ? ` --id ${id}` : ''}`;
}
