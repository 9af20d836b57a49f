/** The image's bill of materials as SPDX 2.3 JSON (spdx.github.io/spdx-spec/v2.3). */
import type { LockedPackage } from './lock.ts'
import { SOURCE_DATE_EPOCH } from './rootfs.ts'

/** An npm package that the agent's bundle holds code of, or the Node that runs it. */
export interface NpmPackage {
  readonly name: string
  readonly version: string
  readonly license: string
}

export interface Contents {
  /** Digest of the root disk: names the document. */
  readonly rootfsSha256: string
  readonly version: string
  readonly debian: readonly LockedPackage[]
  readonly npm: readonly NpmPackage[]
}

const NO_ASSERTION = 'NOASSERTION'

export function spdxDocument({ rootfsSha256, version, debian, npm }: Contents): object {
  const image = {
    ...basics('kuasar-guest-image', version, 'Apache-2.0'),
    SPDXID: 'SPDXRef-image',
    checksums: [{ algorithm: 'SHA256', checksumValue: rootfsSha256 }],
    comment: 'The checksum is that of rootfs.erofs.',
    primaryPackagePurpose: 'OPERATING-SYSTEM',
  }
  const parts = [...debian.map(debianPackage), ...npm.map(npmPackage)]
  const relations = parts.map(({ SPDXID }) => relation('SPDXRef-image', 'CONTAINS', SPDXID))
  return {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: 'SPDXRef-DOCUMENT',
    name: `kuasar-guest-image-${version}`,
    documentNamespace: `urn:kuasar:guest-image:${rootfsSha256}`,
    creationInfo: { created: new Date(SOURCE_DATE_EPOCH * 1000).toISOString().replace('.000Z', 'Z'), creators: ['Tool: kuasar-image'] },
    packages: [image, ...parts],
    relationships: [relation('SPDXRef-DOCUMENT', 'DESCRIBES', 'SPDXRef-image'), ...relations],
  }
}

function basics(name: string, versionInfo: string, licenseDeclared: string) {
  return {
    name,
    versionInfo,
    downloadLocation: NO_ASSERTION,
    filesAnalyzed: false,
    licenseConcluded: NO_ASSERTION,
    licenseDeclared,
    copyrightText: NO_ASSERTION,
  }
}

function debianPackage({ name, version, architecture, source, sha256 }: LockedPackage) {
  const url = `pkg:deb/debian/${encodeURIComponent(name)}@${encodeURIComponent(version)}?arch=${architecture}`
  return {
    ...basics(name, version, NO_ASSERTION),
    SPDXID: identifier('deb', name),
    supplier: 'Organization: Debian',
    sourceInfo: `built from the Debian source package ${source}`,
    checksums: [{ algorithm: 'SHA256', checksumValue: sha256 }],
    externalRefs: [packageUrl(url)],
  }
}

function npmPackage({ name, version, license }: NpmPackage) {
  return {
    ...basics(name, version, license),
    SPDXID: identifier('npm', name),
    externalRefs: [packageUrl(`pkg:npm/${name.replace('@', '%40')}@${version}`)],
  }
}

function packageUrl(referenceLocator: string) {
  return { referenceCategory: 'PACKAGE-MANAGER', referenceType: 'purl', referenceLocator }
}

function relation(spdxElementId: string, relationshipType: string, relatedSpdxElement: string) {
  return { spdxElementId, relationshipType, relatedSpdxElement }
}

/** SPDX identifiers hold letters, digits, "." and "-" only. */
function identifier(kind: string, name: string): string {
  return `SPDXRef-${kind}-${name.replaceAll(/[^A-Za-z0-9.-]/g, '-')}`
}
