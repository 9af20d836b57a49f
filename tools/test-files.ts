/** One run of tap over some test files, and what each of them had to say. */
import { spawn } from 'node:child_process'
import { createWriteStream } from 'node:fs'
import { createInterface } from 'node:readline'

export interface FileResult {
  /** The test file, or the group's name for what belongs to no file. */
  readonly file: string
  /** Assertions that held. */
  readonly passed: number
  /** Worth a reader's eye, and no failure. */
  readonly notes: readonly string[]
  /** A failure each: a line, and below it what tap said of it. */
  readonly complaints: readonly string[]
}

export interface FilesRun {
  readonly group: string
  readonly files: readonly string[]
  readonly jobs: number
  readonly timeoutSeconds: number
  /** Where the whole TAP is kept. */
  readonly keepAt: string
}

export const clean = ({ complaints }: FileResult): boolean => complaints.length === 0

/** Shows each file as it ends. Ends this process, and tap with it, on SIGINT and SIGTERM. */
export async function runFiles({ group, files, jobs, timeoutSeconds, keepAt }: FilesRun): Promise<readonly FileResult[]> {
  const keep = createWriteStream(keepAt)
  const child = spawn(
    'tap',
    ['--reporter=tap', `--jobs=${jobs}`, `--timeout=${timeoutSeconds}`, '--no-color', ...files],
    // A process group of its own, so that an interrupted run takes tap and every test file with it.
    { stdio: ['ignore', 'pipe', 'inherit'], detached: true },
  )
  const interrupt = (signal: NodeJS.Signals) => {
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
    console.error(`tools/test.ts: interrupted by ${signal}`)
    process.exit(2)
  }
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt)
  const ended = new Promise<number>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => resolve(code ?? 1))
  })
  const results: FileResult[] = []
  let open = new OpenFile(group)
  for await (const line of createInterface({ input: child.stdout })) {
    keep.write(`${line}\n`)
    const file = open.read(line)
    if (file === undefined) continue
    const known = results.some((result) => result.file === file && !clean(result))
    if (!known) results.push(open.close(file))
    open = new OpenFile(group)
  }
  keep.end()
  const code = await ended
  process.off('SIGINT', interrupt).off('SIGTERM', interrupt)
  const rest = open.close(group)
  if (rest.passed > 0 || !clean(rest)) results.push(rest)
  // A file that bails out takes all after it along, and tap says nothing of them.
  const ran = new Set(results.map(({ file }) => file))
  results.push(...files.filter((file) => !ran.has(file)).map((file) => failure(file, `it did not run to its end; see ${keepAt}`)))
  if (code !== 0 && results.every(clean)) results.push(failure(group, `tap ended with code ${code}; see ${keepAt}`))
  return results
}

function failure(file: string, complaint: string): FileResult {
  return { file, passed: 0, notes: [], complaints: [`FAILED ${file}: ${complaint}`] }
}

/** So many lines of what tap says of a failed assertion are shown with it. All is in the TAP, but a CI may keep only what was printed. */
const diagnosticLinesMax = 40

/** The YAML that follows a failed assertion, less its lines of source code. */
class Diagnostic {
  readonly #lines: string[] = []
  #indent: string | undefined
  #inSource = false
  ended = false

  read(line: string): void {
    const start = /^( *)---$/.exec(line)?.[1]
    if (this.#indent === undefined) {
      this.#indent = start
      this.ended = start === undefined
      return
    }
    const text = line.slice(this.#indent.length)
    this.ended = text === '...'
    if (/^\S/.test(text)) this.#inSource = text.startsWith('source:')
    if (!this.ended && !this.#inSource) this.#lines.push(`    ${text}`)
  }

  get lines(): readonly string[] {
    const rest = this.#lines.length - diagnosticLinesMax
    return rest > 0 ? [...this.#lines.slice(0, diagnosticLinesMax), `    … ${rest} lines more`] : this.#lines
  }
}

interface Complaint {
  readonly text: string
  readonly diagnostic: Diagnostic | undefined
}

/** What was read of a test file. tap prints its files one after another, however many run at a time. */
class OpenFile {
  readonly #group: string
  readonly #complaints: Complaint[] = []
  #diagnostic: Diagnostic | undefined
  #passed = 0
  #excused = 0
  #expired = false

  constructor(group: string) {
    this.#group = group
  }

  /** One line of TAP: leaf results are counted, files and failures are shown. Answers the file that ends with it. */
  read(line: string): string | undefined {
    if (this.#expired) return this.#readExpired(line)
    this.#diagnostic?.read(line)
    if (this.#diagnostic?.ended === false) return undefined
    this.#diagnostic = undefined
    // A file that took too long ends so, with or without a line of its own before; its name follows.
    this.#expired = /^not ok \d+ - timeout!$/.test(line)
    const match = this.#expired ? null : /^( *)(not )?ok \d+ ?(.*)$/.exec(line)
    if (match === null) return undefined
    const [, indent = '', not, text = ''] = match
    if (indent === '') console.log(`  ${not === undefined ? 'ok    ' : 'FAILED'} ${text}`)
    this.#count(not === undefined, text)
    if (indent !== '') return undefined
    if (this.#complaints.length === 0) {
      if (not !== undefined) this.#complain('it ended badly; its TAP says how')
      else if (this.#passed + this.#excused === 0) this.#complain('it asserts nothing')
    }
    return /^- (\S+)/.exec(text)?.[1] ?? this.#group
  }

  #readExpired(line: string): string | undefined {
    const file = /^ {2}expired: (.*)$/.exec(line)?.[1]
    if (file === undefined) return undefined
    console.log(`  FAILED - ${file} took too long`)
    if (this.#complaints.length === 0) this.#complain('it took too long')
    return file
  }

  #count(ok: boolean, text: string): void {
    const [, directive = '', reason = ''] = / # (SKIP|TODO)\b ?(.*)$/i.exec(text) ?? []
    switch (directive.toUpperCase()) {
      case 'TODO':
        this.#complain(`yet to be done: ${text}`)
        return
      case 'SKIP':
        if (/\blacks: \S/.test(reason)) {
          this.#excused++
          console.log(`  skipped ${text}`)
        } else this.#complain(`skipped without naming what the machine lacks: ${text}`)
        return
    }
    // Subtests close with a line that carries their time; assertions carry none.
    if (/ # time=/.test(text)) return
    if (ok) this.#passed++
    else {
      this.#diagnostic = new Diagnostic()
      this.#complain(text.replace(/^- /, ''), this.#diagnostic)
    }
  }

  #complain(text: string, diagnostic?: Diagnostic): void {
    this.#complaints.push({ text, diagnostic })
  }

  close(file: string): FileResult {
    const complaints = this.#complaints.map(({ text, diagnostic }) => [`FAILED ${file}: ${text}`, ...(diagnostic?.lines ?? [])].join('\n'))
    return { file, passed: this.#passed, notes: [], complaints }
  }
}
