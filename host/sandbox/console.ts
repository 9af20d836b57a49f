/** The end of a guest's console, for people: what a hostile guest printed must not drive the terminal it is read on. */
import { open } from 'node:fs/promises'
import { isErrno } from '#shared/os/error.ts'

/** Read from the end of the file */
const TAIL_BYTES_MAX = 64 * 1024
const LINE_LENGTH_MAX = 400

/** The last `linesMax` lines of a console file, oldest first; none when there is no file. */
export async function consoleTail(path: string, linesMax: number): Promise<string[]> {
  let file
  try {
    file = await open(path, 'r')
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return []
    throw error
  }
  try {
    const { size } = await file.stat()
    const bytes = Buffer.alloc(Math.min(size, TAIL_BYTES_MAX))
    const { bytesRead } = await file.read(bytes, 0, bytes.length, size - bytes.length)
    return cleanLines(bytes.toString('utf8', 0, bytesRead)).slice(-linesMax)
  } finally {
    await file.close()
  }
}

// oxlint-disable-next-line no-control-regex -- control characters are what this removes
const escapes = /\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]/g

/** Without terminal escapes and control characters but line feeds and tabs. */
export function clean(text: string): string {
  return text.replace(escapes, '')
}

/** Clean lines, empty ones left out. */
export function cleanLines(text: string): string[] {
  return text
    .split(/\r?\n/)
    .map((line) => clean(line).trimEnd().slice(0, LINE_LENGTH_MAX))
    .filter((line) => line !== '')
}
