/** The image's bill of materials as SPDX 2.3 JSON (spdx.github.io/spdx-spec/v2.3). */
import { type LockedPackage, type ToolchainRole, toolchainPackages } from './lock.ts'
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
  /** What the image was compiled, linked and packed with; some of it may be in the image as well. */
  readonly toolchain: readonly LockedPackage[]
  readonly npmTools: readonly NpmPackage[]
}

const NO_ASSERTION = 'NOASSERTION'
const IMAGE = 'SPDXRef-image'

/** Section 11 of the specification: which side of a relation is the image differs. */
const toolRelation = {
  linked: (id) => relation(IMAGE, 'STATIC_LINK', id),
  tool: (id) => relation(id, 'BUILD_TOOL_OF', IMAGE),
  needed: (id) => relation(id, 'BUILD_DEPENDENCY_OF', IMAGE),
} satisfies Record<ToolchainRole, (id: string) => object>

export function spdxDocument({ rootfsSha256, version, debian, npm, toolchain, npmTools }: Contents): object {
  const image = {
    ...basics('kuasar-guest-image', version, 'Apache-2.0'),
    SPDXID: IMAGE,
    checksums: [{ algorithm: 'SHA256', checksumValue: rootfsSha256 }],
    comment: 'The checksum is that of rootfs.erofs.',
    primaryPackagePurpose: 'OPERATING-SYSTEM',
  }
  const parts = [...debian.map(debianPackage), ...npm.map(npmPackage)]
  const tools = toolchain.map((entry) => ({ part: debianPackage(entry), role: toolchainPackages[entry.name] ?? 'needed' }))
  const bundlers = npmTools.map(npmPackage)
  const relations = [
    ...parts.map(({ SPDXID }) => relation(IMAGE, 'CONTAINS', SPDXID)),
    ...tools.map(({ part, role }) => toolRelation[role](part.SPDXID)),
    ...bundlers.map(({ SPDXID }) => toolRelation.tool(SPDXID)),
  ]
  const packages = [...parts, ...tools.map(({ part }) => part), ...bundlers]
  return {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: 'SPDXRef-DOCUMENT',
    name: `kuasar-guest-image-${version}`,
    documentNamespace: `urn:kuasar:guest-image:${rootfsSha256}`,
    creationInfo: { created: new Date(SOURCE_DATE_EPOCH * 1000).toISOString().replace('.000Z', 'Z'), creators: ['Tool: kuasar-image'] },
    // A shared library may be both in the image and in the toolchain: one package, two relations.
    packages: [image, ...new Map(packages.map((part) => [part.SPDXID, part])).values()],
    relationships: [relation('SPDXRef-DOCUMENT', 'DESCRIBES', IMAGE), ...relations],
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
    SPDXID: identifier('deb', `${name}-${version}`),
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
