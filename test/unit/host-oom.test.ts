import { join } from 'node:path'
import { writeFile } from 'node:fs/promises'
import t from 'tap'
import { outOfMemory } from '#host/sandbox/oom.ts'

t.test('a kill for want of memory is told from any other, on both kinds of cgroups', async (t) => {
  const dir = t.testdir({ v1: {}, v2: {}, other: {} })
  const procs = (name: string) => [join(dir, 'other/cgroup.procs'), join(dir, name, 'cgroup.procs')]
  await writeFile(join(dir, 'v1/memory.oom_control'), 'oom_kill_disable 0\nunder_oom 0\noom_kill 0\n')
  await writeFile(join(dir, 'v2/memory.events'), 'low 0\nhigh 0\nmax 9\noom 1\noom_kill 0\n')
  t.equal(await outOfMemory(procs('v1')), undefined)
  t.equal(await outOfMemory(procs('v2')), undefined)
  await writeFile(join(dir, 'v1/memory.oom_control'), 'oom_kill_disable 0\nunder_oom 0\noom_kill 1\n')
  await writeFile(join(dir, 'v2/memory.events'), 'low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\n')
  t.match(await outOfMemory(procs('v1')), /ran out of memory; raise/)
  t.match(await outOfMemory(procs('v2')), /ran out of memory; raise/)
  t.equal(await outOfMemory([join(dir, 'gone/cgroup.procs')]), undefined)
})
