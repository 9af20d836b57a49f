/** A console in a guest's agent: lines are edited here and run there. */
import { createInterface } from 'node:readline/promises'
import { explain } from '#shared/errors.ts'
import type { ServiceTypesOf } from '#shared/rpc/services.ts'
import type { Calls } from '#shared/ttrpc/method.ts'

type Admin = Pick<Calls<ServiceTypesOf<'admin'>>, 'Evaluate'>

/** For what an expression awaits, in ms. */
const EVALUATE_MS_MAX = 60_000

/** V8's words for a program that may go on in the next line. Nothing of it has run. */
const unfinished = /^SyntaxError: (Unexpected end of input|Unterminated template literal|missing \) after argument list)/

const HINT = 'The agent\'s parts are in `agent`, Node\'s modules in require(NAME). Private fields can be read. Ctrl-D leaves.\n'

/** What it came to as text, and whether it threw. */
export function evaluate(admin: Admin, id: string, expression: string) {
  return admin.Evaluate({ id, expression }, { timeoutMs: EVALUATE_MS_MAX })
}

/** Until the end of standard input. A program may have several lines; an empty one ends it. */
export async function console(admin: Admin, id: string): Promise<void> {
  const prompt = `${id}> `
  using lines = createInterface({ input: process.stdin, output: process.stdout, prompt })
  // Ctrl-D may come while an answer is awaited, with lines before it that are still to be run.
  let open = true
  lines.once('close', () => (open = false))
  process.stdout.write(HINT)
  lines.prompt()
  let program = ''
  for await (const line of lines) {
    program += `${line}\n`
    const said = program.trim() === '' ? '' : await answer(admin, id, program)
    const more = line !== '' && unfinished.test(said)
    if (!more) {
      program = ''
      if (said !== '') process.stdout.write(`${said}\n`)
    }
    lines.setPrompt(more ? '... ' : prompt)
    if (open) lines.prompt()
  }
  process.stdout.write('\n')
}

async function answer(admin: Admin, id: string, program: string): Promise<string> {
  try {
    return (await evaluate(admin, id, program)).text
  } catch (error) {
    return explain(error)
  }
}
