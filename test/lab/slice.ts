/** Pods' cgroups as a kubelet with the systemd driver has them made: one slice per pod, and systemd owns it. */
import { randomUUID } from 'node:crypto'
import { basename } from 'node:path'
import type { PodCgroups } from '#test/cri/client.ts'
import type { Lab } from './lab.ts'

/** `cgroupParent` is the slice's whole path, as the kubelet gives it to CRI. */
export function podSlices(lab: Lab): PodCgroups {
  return {
    async make(cgroupParent) {
      const slice = basename(cgroupParent)
      await lab.sh(`systemctl start ${slice} && systemctl set-property --runtime ${slice} MemoryMax=1536M CPUWeight=50`)
    },
    async remove(cgroupParent) {
      await lab.sh(`systemctl stop ${basename(cgroupParent)}`)
    },
  }
}

/** A pod's, as the kubelet's systemd driver names it. */
export const newPodSlice = (): string => slicePath(`kubepods-pod${randomUUID().replaceAll('-', '_')}.slice`)

/** Where systemd has a slice: each dash is a level. Source: systemd.slice(5). */
function slicePath(slice: string): string {
  const parts = slice.replace(/\.slice$/, '').split('-')
  return parts.map((_, index) => `/${parts.slice(0, index + 1).join('-')}.slice`).join('')
}
