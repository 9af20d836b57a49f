/** `make demo`, once: what it shows is what it promises, to the last stage of its waterfall. */
import { readFile, rm } from 'node:fs/promises'
import { release } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import t from 'tap'
import { checkout } from '#test/node/paths.ts'

/** A pod's start, in order. */
const stages = ['CRI call RunPodSandbox', 'Create', 'VMM spawn', 'kernel', 'init', 'agent', 'Hello', 'Ready', 'Prepare', 'crun create', 'first output']

const pagePath = join(checkout, 'build/demo/waterfall.html')
await rm(pagePath, { force: true })
const { exitCode, stdout, stderr } = await execa(process.execPath, ['demo/main.ts'], { cwd: checkout, reject: false, stdin: 'ignore' })

t.test('it ends well', async (t) => {
  t.equal(exitCode, 0, stderr)
})

t.test('two containers with roots of their own, on a kernel that is not the host’s', async (t) => {
  for (const name of ['alice', 'bob']) {
    const said = new RegExp(`container ${name} prints\n +I am ${name} on kernel (\\S+), host name demo\n +my root says it was written by: ${name}\n`).exec(stdout)
    t.ok(said, `${name} prints two lines`)
    t.not(said?.[1], release())
  }
  t.match(stdout, `the host's kernel is ${release()}\n`)
})

t.test('an exec, the network and an exit code', async (t) => {
  t.match(stdout, /exec in alice\n +I am root, and my init is: sh \(exit code 0\)\n/)
  t.match(stdout, /the node asks the pod, http:\/\/[\d.]+\/\n +alice, over the network\n/)
  t.match(stdout, /exits with its own code\n +exit code 42\n/)
})

t.test('the waterfall: every stage in order, in milliseconds, with a bar', async (t) => {
  const [, chart = ''] = stdout.split('\nPod start, from the CRI call to the first line of output\n')
  const rows = [...chart.matchAll(/^(\S.*?) {2,}([\d.]+) +([\d.]+) {2} *[█-▏]+$/gm)].map(([, name = '', startMs, tookMs]) => ({ name, startMs, tookMs }))
  const drawn = rows.map(({ name }) => name).filter((name) => stages.includes(name))
  t.strictSame(drawn, stages)
  t.equal(rows[0]?.startMs, '0')
})

t.test('the same as a page that asks nobody for anything', async (t) => {
  const html = await readFile(pagePath, 'utf8')
  for (const stage of stages) t.ok(html.includes(`>${stage}</text>`), stage)
  t.match(html, /^<!doctype html>.*<\/html>\n$/s)
  t.notMatch(html, /https?:|file:|\b(src|href|srcset|action)\s*=|url\(|@import|<(script|link|iframe|img|object|embed)\b/i)
})
