/** OCI image layouts (image-spec 1.1) made in memory and handed over as one archive that `ctr images import` reads. */

import { createHash } from 'node:crypto'
import { tar, type TarEntry } from './tar.ts'

/** The part of an image's configuration that a container inherits, in the specification's own names. */
export interface ImageConfig {
  readonly User?: string
  readonly Env?: readonly string[]
  readonly Entrypoint?: readonly string[]
  readonly Cmd?: readonly string[]
  readonly WorkingDir?: string
  readonly Volumes?: Readonly<Record<string, Record<string, never>>>
  readonly StopSignal?: string
}

export interface Image {
  /** With registry and tag, as CRI names it. */
  readonly reference: string
  /** Lowest first. */
  readonly layers: readonly (readonly TarEntry[])[]
  readonly config: ImageConfig
}

export interface Descriptor {
  readonly mediaType: string
  readonly digest: string
  readonly size: number
}

const media = {
  index: 'application/vnd.oci.image.index.v1+json',
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar',
} as const

/** A manifest, and what an index says of it. */
export interface Manifest extends Descriptor {
  readonly platform: { readonly architecture: string; readonly os: string }
  readonly annotations: Readonly<Record<string, string>>
}

export interface OciStore {
  /** By the hexadecimal part of their digests. */
  readonly blobs: ReadonlyMap<string, Buffer>
  /** One per image, in their order. */
  readonly manifests: readonly Manifest[]
}

/** The images as content by digest. Equal layers are stored once. */
export function ociStore(images: readonly Image[]): OciStore {
  const blobs = new Map<string, Buffer>()
  const add = (mediaType: string, content: Buffer): Descriptor => {
    const digest = createHash('sha256').update(content).digest('hex')
    blobs.set(digest, content)
    return { mediaType, digest: `sha256:${digest}`, size: content.length }
  }
  const manifests = images.map((image) => {
    const layers = image.layers.map((entries) => add(media.layer, tar(entries)))
    const config = json({
      architecture: 'amd64',
      os: 'linux',
      config: image.config,
      // Layers are not compressed, so a layer's digest is also the digest of its content.
      rootfs: { type: 'layers', diff_ids: layers.map((layer) => layer.digest) },
    })
    const manifest = { schemaVersion: 2, mediaType: media.manifest, config: add(media.config, config), layers }
    const annotations = { 'io.containerd.image.name': image.reference }
    return { ...add(media.manifest, json(manifest)), platform: { architecture: 'amd64', os: 'linux' }, annotations }
  })
  return { blobs, manifests }
}

/** All images in one OCI archive. */
export function ociArchive(images: readonly Image[]): Buffer {
  const { blobs, manifests } = ociStore(images)
  return tar([
    { kind: 'file', name: 'oci-layout', content: json({ imageLayoutVersion: '1.0.0' }) },
    { kind: 'file', name: 'index.json', content: json({ schemaVersion: 2, mediaType: media.index, manifests }) },
    ...[...blobs].map(([digest, content]) => ({ kind: 'file', name: `blobs/sha256/${digest}`, content }) as const),
  ])
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value))
}
