/**
 * Which way mounts that are made later travel between a volume and its container. What the host mounts comes through the
 * share; what a container mounts stays in its guest's kernel, and reaches the other containers of the pod there. That is
 * all anybody asks of an emptyDir, and never all of another volume. Pure.
 */
import type { OciMount } from './oci.ts'
import { refused } from './refused.ts'
import { isEmptyDirOf } from './source.ts'

/** `slave` receives mounts (HostToContainer), `shared` passes its own on as well (Bidirectional) */
export type Propagation = 'private' | 'slave' | 'shared'

const kinds: ReadonlyMap<string, Propagation> = new Map(
  (['private', 'slave', 'shared'] as const).flatMap((kind) => [[kind, kind], [`r${kind}`, kind]] as const),
)

/** Of a bind: the last word counts. Errors: UNIMPLEMENTED for one whose mounts would have to appear on the host. */
export function propagationOf(mount: OciMount, podUid: string): Propagation {
  const own = isEmptyDirOf(podUid, mount.source ?? '')
  const word = mount.options.find((option) => (kinds.get(option) === 'shared' && !own) || ['unbindable', 'runbindable'].includes(option))
  if (word === undefined) return kinds.get(mount.options.findLast((option) => kinds.has(option)) ?? '') ?? 'private'
  throw refused(
    'UNIMPLEMENTED',
    mount,
    `asks for ${word} propagation`,
    "a mount made in a sandbox cannot appear on the host: use mountPropagation None or HostToContainer, an emptyDir of the pod's" +
      ' (no subPath of it), where it reaches the other containers, or a runc runtime class',
  )
}
