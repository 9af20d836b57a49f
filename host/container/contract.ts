/**
 * Between the host service (which hears a guest ask) and the part that makes a container's files visible in it.
 * The guest gives a container id and nothing else; every path below comes from containerd or from the sandbox.
 */
import type { Ownership } from '../sandbox/ownership.ts'

/** The one size of huge pages that a guest's kernel can always set aside while it runs, as CRI and OCI write it. */
export const HUGEPAGE_SIZE = '2MB'

/** What preparing a container needs to know of its sandbox. */
export interface SandboxView {
  readonly id: string
  /** The pod's, as the kubelet names its directory; empty of a client that gives none */
  readonly podUid: string
  /** containerd's namespace, "k8s.io" under CRI. */
  readonly namespace: string
  /** Host directory shared with the guest. */
  readonly sharedDir: string
  /** Where the guest mounts it; equal to `sharedDir` for a backend without sharing. */
  readonly guestSharedDir: string
  /** Where the guest mounts it for the roots in it; equal to `guestSharedDir` where it is mounted once. */
  readonly guestRootsDir: string
  /** Set aside by the guest's kernel, in pages of 2 MiB. */
  readonly hugepagesMiB: number
  readonly ownership: Ownership
}

/** A mount the guest makes before it creates the container (kuasar.host.v1.Storage). */
export interface GuestStorage {
  readonly type: string
  readonly source: string
  readonly target: string
  readonly options: readonly string[]
}

export type PidNamespaceMode = { readonly kind: 'private' } | { readonly kind: 'pod' } | { readonly kind: 'target'; readonly pid: number }

export interface PreparedContainer {
  /** OCI runtime spec for the guest, JSON. */
  readonly spec: Buffer
  readonly storages: readonly GuestStorage[]
  readonly pidNamespace: PidNamespaceMode
}

export interface ContainerPreparer {
  /**
   * Idempotent per container. Errors: NOT_FOUND no such container in this sandbox; INVALID_ARGUMENT or UNIMPLEMENTED
   * for a spec or mount the sandbox cannot carry, naming it; everything made is undone on error.
   */
  prepare(sandbox: SandboxView, containerId: string, signal: AbortSignal): Promise<PreparedContainer>
  /** Idempotent; unknown ids are no error. */
  release(sandbox: SandboxView, containerId: string): Promise<void>
}
