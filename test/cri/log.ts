/**
 * Container logs in CRI's format: `<RFC 3339 time> <stdout|stderr> <F|P> <text>`, where P marks a line that goes on
 * in the stream's next entry because it outgrew containerd's limit.
 */

export interface LogLine {
  readonly time: string
  readonly stream: 'stdout' | 'stderr'
  readonly text: string
}

/** The whole lines of a log file. Throws on an entry that is not of the format. */
export function parseLog(file: string): LogLine[] {
  const lines: LogLine[] = []
  const partial: Record<LogLine['stream'], string> = { stdout: '', stderr: '' }
  const entries = file.split('\n')
  // After the last newline comes nothing, or an entry that is being written.
  entries.pop()
  for (const entry of entries) {
    const [, time, stream, tag, text] = /^(\S+) (stdout|stderr) ([FP]) (.*)$/s.exec(entry) ?? []
    if (time === undefined || (stream !== 'stdout' && stream !== 'stderr') || text === undefined) {
      throw new Error(`not an entry of a CRI log: ${JSON.stringify(entry)}`)
    }
    partial[stream] += text
    if (tag === 'P') continue
    lines.push({ time, stream, text: partial[stream] })
    partial[stream] = ''
  }
  for (const stream of ['stdout', 'stderr'] as const) {
    if (partial[stream] !== '') lines.push({ time: '', stream, text: partial[stream] })
  }
  return lines
}
