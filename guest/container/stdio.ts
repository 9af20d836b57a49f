/** The stdio strings of Create and Exec: stream addresses, or nothing. A plan: nothing is opened. */
import { RuntimeError } from '#shared/errors.ts'
import { STREAM_ID_LENGTH_MAX } from '../streams/registry.ts'

/** What containerd asked for, kept to be echoed by State. */
export interface Stdio {
  readonly stdin: string
  readonly stdout: string
  readonly stderr: string
  readonly terminal: boolean
}

/** The ids of the streams a process is connected to; undefined for /dev/null. */
export interface StdioPlan {
  readonly stdin: string | undefined
  readonly stdout: string | undefined
  readonly stderr: string | undefined
  readonly terminal: boolean
}

export function planStdio(stdio: Stdio, about: string): StdioPlan {
  return {
    stdin: streamId(stdio.stdin, 'stdin', about),
    stdout: streamId(stdio.stdout, 'stdout', about),
    stderr: stdio.terminal ? undefined : streamId(stdio.stderr, 'stderr', about),
    terminal: stdio.terminal,
  }
}

/** The ids of the streams that may have been opened for it, whatever else is wrong with it. */
export function streamIds({ stdin, stdout, stderr }: Stdio): Omit<StdioPlan, 'terminal'> {
  const [input, output, errors] = [stdin, stdout, stderr].map((address) => urlOf(address)?.searchParams.get('streaming_id') ?? undefined)
  return { stdin: input, stdout: output, stderr: errors }
}

function urlOf(address: string): URL | undefined {
  return URL.canParse(address) ? new URL(address) : undefined
}

function streamId(address: string, name: string, about: string): string | undefined {
  if (address === '') return undefined
  const url = urlOf(address)
  if (url === undefined || !url.protocol.startsWith('ttrpc+')) {
    throw new RuntimeError(
      'INVALID_ARGUMENT',
      `${about}: ${name} is ${JSON.stringify(address.slice(0, 200))}, a path on the host that a VM cannot open; ` +
        'set io_type = "streaming" for this runtime in containerd\'s configuration',
    )
  }
  const id = url.searchParams.get('streaming_id')
  if (id === null || id === '' || id.length > STREAM_ID_LENGTH_MAX) {
    throw new RuntimeError('INVALID_ARGUMENT', `${about}: ${name} is ${JSON.stringify(address.slice(0, 200))}, without a usable streaming_id`)
  }
  return id
}
