import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { kernelCommandLine, qemuArguments } from '../../image/boot.ts'
import { isKernel, readLock, shippedPackages, toolchainOf, toolchainPackages } from '../../image/lock.ts'
import { shares, table } from '../../image/report.ts'
import { spdxDocument } from '../../image/sbom.ts'

t.test('the lock in the repository is whole', async (t) => {
  const { packages, toolchain } = await readLock()
  t.equal(packages.filter(isKernel).length, 1)
  const names = packages.filter((entry) => !isKernel(entry)).map(({ name }) => name)
  t.same(names, [...shippedPackages].sort((a, b) => (a < b ? -1 : 1)))
  t.same(toolchain.map(({ name }) => name), Object.keys(toolchainPackages).sort())
})

t.test('a lock that is not one says what is wrong', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'kuasar-lock-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const path = join(directory, 'lock.json')
  writeFileSync(path, JSON.stringify({ suite: 'x', packages: [{ name: 'crun', version: '1', architecture: 'amd64', source: 'crun', sha256: 'no', sizeBytes: 1 }], toolchain: [] }))
  await t.rejects(readLock(path), { message: /packages\[0\]\.sha256.*make image-lock/s })
})

t.test('the bill of materials names every part, each related to the image', async (t) => {
  const lock = await readLock()
  const { packages } = lock
  const npm = [{ name: '@grpc/grpc-js', version: '1.14.7', license: 'Apache-2.0' }]
  const npmTools = [{ name: 'esbuild', version: '0.25.0', license: 'MIT' }]
  const document = spdxDocument({ rootfsSha256: 'a'.repeat(64), version: '1.2.3', debian: packages, npm, toolchain: toolchainOf(lock), npmTools })
  t.match(document, {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    documentNamespace: `urn:kuasar:guest-image:${'a'.repeat(64)}`,
    creationInfo: { created: /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/ },
  })
  const text = JSON.stringify(document)
  for (const { name, sha256 } of [...packages, ...lock.toolchain]) t.ok(text.includes(`"${name}"`) && text.includes(sha256), name)
  t.match(text, /pkg:npm\/%40grpc\/grpc-js@1\.14\.7/)
  t.match(text, /pkg:deb\/debian\/libcap2@1%3A2\.66/)
  const ids = [...text.matchAll(/"SPDXID":"([^"]+)"/g)].map((match) => match[1] ?? '')
  t.equal(new Set(ids).size, ids.length, 'identifiers are unique')
  t.ok(ids.every((id) => /^SPDXRef-[A-Za-z0-9.-]+$/.test(id)))
  t.equal([...text.matchAll(/"relationshipType":"CONTAINS"/g)].length, packages.length + npm.length)
  const related = (type: string) => [...text.matchAll(new RegExp(`"spdxElementId":"([^"]+)","relationshipType":"${type}","relatedSpdxElement":"([^"]+)"`, 'g'))]
  t.match(related('STATIC_LINK').map(([, from, to]) => `${from} ${to}`), [/^SPDXRef-image SPDXRef-deb-libc6-dev-/, /^SPDXRef-image SPDXRef-deb-libgcc-12-dev-/])
  const tools = related('BUILD_TOOL_OF').map(([, from, to]) => `${from} ${to}`)
  for (const name of ['deb-gcc-12', 'deb-binutils', 'deb-erofs-utils', 'npm-esbuild']) {
    t.ok(tools.some((line) => line.startsWith(`SPDXRef-${name}`) && line.endsWith(' SPDXRef-image')), name)
  }
  t.ok(related('BUILD_DEPENDENCY_OF').some(([, from]) => from?.startsWith('SPDXRef-deb-libc6-2.')), 'what is in the image may be needed to build it too')
})

t.test('the table: largest first, what fits no group is other', async (t) => {
  const root = mkdtempSync(join(tmpdir(), 'kuasar-shares-'))
  t.teardown(() => rmSync(root, { recursive: true }))
  mkdirSync(join(root, 'usr/bin'), { recursive: true })
  writeFileSync(join(root, 'usr/bin/node'), Buffer.alloc(2_000_000))
  writeFileSync(join(root, 'strange'), Buffer.alloc(500_000))
  const lines = await shares(root)
  t.same(lines, [{ name: 'Node', bytes: 2_000_000 }, { name: 'other', bytes: 500_000 }])
  t.equal(table(lines), `  Node      2.00 MB  ${'█'.repeat(40)}\n  other     0.50 MB  ${'█'.repeat(10)}`)
})

t.test('the kernel’s command line', async (t) => {
  t.equal(kernelCommandLine(), 'console=ttyS0 quiet panic=-1 cryptomgr.notests no_timer_check')
  const all = kernelCommandLine({ console: 'hvc0', logLevel: 'debug', extra: ['loglevel=7'] })
  t.match(all, / kuasar\.console=hvc0 kuasar\.log=debug loglevel=7$/)
})

t.test('QEMU’s arguments', async (t) => {
  const boot = { kernel: '/k', initramfs: '/i', rootfs: '/r', commandLine: 'c', memoryMiB: 256, vcpus: 2 }
  const args = qemuArguments(boot)
  t.ok(args.includes('-no-reboot'), 'a panic ends the VM')
  t.ok(args.includes('virtio-blk-pci,drive=root'))
  t.notOk(args.some((arg) => arg.includes('vsock')))
  t.ok(qemuArguments({ ...boot, vsockBackend: '/v' }).includes('vhost-user-vsock-pci,chardev=vsock'))
})
