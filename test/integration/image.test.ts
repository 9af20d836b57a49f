/** The image itself: the same twice, and what a guest does when part of it is missing or broken. */
import { mkdir, readFile, rm, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import t from 'tap'
import { AGENT_SNAPSHOT, agentEntry } from '../../image/agent.ts'
import { buildImage } from '../../image/build.ts'
import { imagePaths } from '../../image/paths.ts'
import { IMAGE_COMPRESSION, makeErofs } from '../../image/rootfs.ts'
import { startNode } from '#test/node/node.ts'
import { checkout } from '#test/node/paths.ts'
import { type VmOptions, startVm } from '#test/support/vm.ts'

const entry = join(import.meta.dirname, '../support/agent-hello.ts')
const work = join(checkout, 'build/image-test')
await mkdir(work, { recursive: true })
t.teardown(() => rm(work, { recursive: true }))

await execa('make', ['init', 'os-addon'], { cwd: checkout })
const first = await buildImage({ out: join(work, 'first'), entry, compression: 'none' })
const image = { ...first.paths, kernel: first.paths.vmlinux }

await t.test('a second build of the image that was built for the tests, equal bytes', async (t) => {
  const second = await buildImage({ out: join(work, 'second'), entry: agentEntry, compression: IMAGE_COMPRESSION })
  for (const [name, path] of Object.entries(imagePaths())) {
    if (name === 'out') continue
    const other = Object.entries(second.paths).find(([key]) => key === name)?.[1] ?? ''
    t.ok((await readFile(path)).equals(await readFile(other)), name)
  }
})

await t.test('boots', async (t) => {
  await using node = await startNode({ images: false })
  let vms = 0
  const boot = async (options: Partial<VmOptions>) => await (await startVm(node, { name: `vm${vms++}`, image, ...options })).console

  await t.test('from the snapshot, and powers off', async (t) => {
    const console = await boot({ logLevel: 'debug' })
    t.match(console, /^HELLO init:\d+,drivers:\d+,switch-root:\d+,mounts:\d+,modules:\d+,agent-exec:\d+,agent-main:\d+ snapshot/m)
    t.match(console, /reboot: Power down/)
    t.notMatch(console, /takes longer/)
  })
  await t.test('from the bzImage just as well', async (t) => {
    t.match(await boot({ image: first.paths }), /^HELLO /m)
  })

  const root = join(work, 'root')
  await execa('fsck.erofs', [`--extract=${root}`, first.paths.rootfs])
  const withRoot = async (name: string): Promise<Partial<VmOptions>> => {
    const rootfs = join(work, `${name}.erofs`)
    await makeErofs(root, rootfs, 'none')
    return { image: { ...image, rootfs } }
  }
  await t.test('from the bundle, saying so, when the snapshot is broken', async (t) => {
    await truncate(join(root, AGENT_SNAPSHOT), 100_000)
    const console = await boot(await withRoot('broken'))
    t.match(console, /^init: the start-up snapshot .* does not load; the agent starts from its bundle/m)
    t.match(console, /^HELLO .* bundle/m)
  })
  await t.test('from the bundle, saying so, when there is none', async (t) => {
    await rm(join(root, AGENT_SNAPSHOT))
    const console = await boot(await withRoot('none'))
    t.match(console, /^init: there is no start-up snapshot/m)
    t.match(console, /^HELLO .* bundle/m)
  })
  await t.test('ends with the reason when the agent cannot run', async (t) => {
    await rm(join(root, 'usr/bin/node'))
    const console = await boot(await withRoot('no-node'))
    t.match(console, /^init: cannot start the agent \/usr\/bin\/node: No such file or directory/m)
    t.match(console, /reboot: Power down/)
  })
  await t.test('ends with the reason when init itself cannot go on', async (t) => {
    await rm(join(root, 'usr/lib/kuasar/vsock.ko'))
    t.match(await boot(await withRoot('no-module')), /^init: cannot load the module \/usr\/lib\/kuasar\/vsock\.ko: No such file or directory; powering off/m)
  })
  await t.test('ends with the reason when the disk is no root', async (t) => {
    t.match(await boot({ image: { ...image, rootfs: first.paths.manifest } }), /init: cannot mount \/dev\/vda on \/root: Invalid argument; powering off/)
  })
  await t.test('an unknown option is told', async (t) => {
    t.match(await boot({ extra: ['kuasar.nonsense=1'] }), /^init: unknown option on the kernel command line: kuasar\.nonsense=1/m)
  })
  await t.test('a panic ends the VM', async (t) => {
    t.match(await boot({ extra: ['rdinit=/nowhere', 'init=/nowhere'] }), /Kernel panic/)
  })
})
