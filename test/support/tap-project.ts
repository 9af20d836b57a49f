/** A project of throw-away test files, below the checkout, where tap is found. A tap tidies up where it runs. */
import { copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { execa } from 'execa'

export const checkout = resolve(import.meta.dirname, '../..')

export interface TapProject extends AsyncDisposable {
  readonly dir: string
  /** Paths below the project, without `.test.ts`, and what is in them after the import of tap as `t`. Answers the files' names. */
  write(files: Readonly<Record<string, string>>): Promise<readonly string[]>
  /** Runs node there, without the hooks of a tap that this process may run under. */
  node(...args: readonly string[]): Promise<{ readonly stdout: string; readonly stderr: string; readonly exitCode?: number }>
}

export async function tapProject(): Promise<TapProject> {
  await mkdir(join(checkout, 'build'), { recursive: true })
  const dir = await mkdtemp(join(checkout, 'build/tap-project-'))
  await writeFile(join(dir, 'package.json'), '{ "type": "module" }')
  await copyFile(join(checkout, '.taprc'), join(dir, '.taprc'))
  const hooks = Object.keys(process.env).filter((name) => name === 'NODE_OPTIONS' || name.startsWith('TAP'))
  return {
    dir,
    async write(files) {
      const names: string[] = []
      for (const [path, body] of Object.entries(files)) {
        const name = `${path}.test.ts`
        await mkdir(join(dir, dirname(name)), { recursive: true })
        await writeFile(join(dir, name), `import t from 'tap'\n${body}\n`)
        names.push(name)
      }
      return names
    },
    node: (...args) => execa('env', [...hooks.flatMap((name) => ['-u', name]), process.execPath, ...args], { cwd: dir, reject: false }),
    [Symbol.asyncDispose]: () => rm(dir, { recursive: true }),
  }
}
