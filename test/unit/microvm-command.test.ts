/** Command lines as they are run, word for word. */
import { execa } from 'execa'
import t from 'tap'
import { processCommand, processEnv } from '#host/backends/microvm/process-argv.ts'
import { VSOCK_GUARD, vhostVsockCommand } from '#host/backends/microvm/vhost-vsock.ts'
import { virtiofsdCommand } from '#host/backends/microvm/virtiofsd.ts'

t.test('virtiofsd', (t) => {
  const options = { path: '/usr/libexec/virtiofsd', sharedDir: '/s/shared', socket: '/s/virtiofs.sock' }
  t.strictSame(virtiofsdCommand({ ...options, cache: 'auto' }), {
    file: '/usr/libexec/virtiofsd',
    args: [
      '--shared-dir=/s/shared',
      '--socket-path=/s/virtiofs.sock',
      '--sandbox=namespace',
      '--seccomp=kill',
      '--cache=auto',
      '--announce-submounts',
      '--inode-file-handles=prefer',
      '--xattr',
      '--log-level=error',
    ],
  })
  t.ok(virtiofsdCommand({ ...options, cache: 'always' }).args.includes('--cache=always'))
  t.end()
})

t.test('vhost-device-vsock', (t) => {
  t.strictSame(vhostVsockCommand({ path: '/usr/bin/vhost-device-vsock', socket: '/s/vhost-vsock.sock', uds: '/s/vsock' }), {
    file: '/usr/bin/env',
    args: [`LD_PRELOAD=${VSOCK_GUARD}`, '/usr/bin/vhost-device-vsock', '--guest-cid=3', '--socket=/s/vhost-vsock.sock', '--uds-path=/s/vsock'],
  })
  t.end()
})

const command = { file: '/bin/echo', args: ['a  b', '--', '$HOME'] }
const setting = { sandboxId: 'id', name: 'echo', cgroupProcs: [], netnsPath: undefined, privileged: true }

t.test('nothing of a program or its arguments is read by the shell before it', async (t) => {
  const { file, args } = processCommand(command, setting)
  t.equal((await execa(file, [...args])).stdout, 'a  b -- $HOME')
})

t.test('the network namespace is entered while there are capabilities to do so', (t) => {
  const { args } = processCommand(command, { ...setting, cgroupProcs: ['/c/cgroup.procs'], netnsPath: '/run/netns/x', privileged: false })
  const confine = ['setpriv', '--bounding-set=-all', '--inh-caps=-all', '--no-new-privs', '--']
  t.strictSame(args.slice(2), ['sh', '/c/cgroup.procs', '--', 'nsenter', '--net=/run/netns/x', ...confine, '/bin/echo', 'a  b', '--', '$HOME'])
  t.end()
})

t.test('a cgroup that cannot be joined keeps the program from running', async (t) => {
  const { file, args } = processCommand(command, { ...setting, cgroupProcs: ['/nowhere/cgroup.procs'] })
  const { exitCode, stdout, stderr } = await execa(file, [...args], { reject: false })
  t.equal(exitCode, 126)
  t.equal(stdout, '')
  t.match(stderr, /nowhere/)
})

t.test('without privileges root is a user like any other, for good', async (t) => {
  const { file, args } = processCommand({ file: '/bin/cat', args: ['/proc/self/status'] }, { ...setting, privileged: false })
  const { stdout } = await execa(file, [...args])
  for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) t.match(stdout, new RegExp(`^${set}:\\s+0+$`, 'm'))
  t.match(stdout, /^NoNewPrivs:\s+1$/m)
})

t.test('the environment is the marker and no more than a program needs', (t) => {
  t.strictSame(processEnv(setting), { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LANG: 'C.UTF-8', KUASAR_PROCESS: 'id/echo' })
  t.end()
})
