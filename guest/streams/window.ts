/**
 * What has been sent to one reader, and what of it the reader certainly has.
 *
 * containerd tops its window up with another 64 KiB whenever, after reading what it received, less than 64 KiB are
 * left of it. So an update proves that all but the last 64 KiB of the credit granted *before* it were read
 * (containerd-contract, section 0). Read is not written: the update leaves before the log has those bytes, so of what was
 * read the last IN_HAND_BYTES_MAX are not counted either. The rest, 192 KiB at most, is kept here and sent again to the next
 * reader: a containerd that is killed may get the same bytes twice, never not at all.
 *
 * A quiet container never earns a second update. To keep its last lines from being repeated at every restart, bytes
 * that were sent to a reader which stayed for `settledMs` afterwards count as consumed, if its end was heard. Where it was
 * not, nobody knows how long it stayed.
 */
import { ByteQueue } from '#shared/bytes.ts'
import { RuntimeError } from '#shared/errors.ts'

/** containerd's window, and the size of each of its updates. */
export const WINDOW_BYTES = 64 * 1024

/** More credit than any containerd grants; a peer that grants more is not one. */
export const CREDIT_BYTES_MAX = 1024 * 1024

/**
 * What containerd has read and may not have written: one Data message in io.Copy's hand (32 KiB), 4 KiB in the buffer of its
 * log, and an unfinished line (16 KiB, unless max_container_log_line_size was set higher).
 */
const IN_HAND_BYTES_MAX = 64 * 1024

/** Coarseness of the dates kept for settling, and how many are kept: what is older than all of them has the oldest. */
const MARK_MS = 1000
const MARKS_MAX = 64

export class SendWindow {
  readonly #settledMs: number
  #granted = 0
  #sent = 0
  readonly #unconfirmed = new ByteQueue()
  /** Until when (monotonic ms) the first `sent` bytes were sent. */
  #marks: { sent: number; atMs: number }[] = []

  constructor(settledMs: number) {
    this.#settledMs = settledMs
  }

  /** Bytes that may be sent now. */
  get credit(): number {
    return this.#granted - this.#sent
  }

  /** Bytes that were sent and may not have been consumed. */
  get unconfirmed(): number {
    return this.#unconfirmed.length
  }

  /** A WindowUpdate came. Throws INVALID_ARGUMENT for one that makes no sense. */
  grant(bytes: number): void {
    if (!Number.isInteger(bytes) || bytes <= 0 || this.credit + bytes > CREDIT_BYTES_MAX) {
      throw new RuntimeError(
        'INVALID_ARGUMENT',
        `window update of ${bytes} bytes on top of ${this.credit}: expected a positive number, ${CREDIT_BYTES_MAX} in all at most`,
      )
    }
    const consumed = Math.min(this.#granted - WINDOW_BYTES - IN_HAND_BYTES_MAX + 1, this.#sent)
    this.#forget(consumed)
    this.#granted += bytes
  }

  /** `bytes` leave for the reader at `nowMs` (monotonic). */
  send(bytes: Buffer, nowMs: number): void {
    this.#sent += bytes.length
    this.#unconfirmed.append(bytes)
    const last = this.#marks.at(-1)
    if (last !== undefined && nowMs - last.atMs < MARK_MS) last.sent = this.#sent
    else this.#marks.push({ sent: this.#sent, atMs: nowMs })
    if (this.#marks.length > MARKS_MAX) this.#marks.shift()
  }

  /** The reader has everything that was sent. */
  confirm(): void {
    this.#forget(this.#sent)
  }

  /** The reader went at `nowMs`, or at a time that nobody knows: what it may not have, in order. */
  takeUnconfirmed(nowMs: number | undefined): ByteQueue {
    const settled = nowMs === undefined ? undefined : this.#marks.findLast(({ atMs }) => nowMs - atMs >= this.#settledMs + MARK_MS)
    if (settled !== undefined) this.#forget(settled.sent)
    return this.#unconfirmed
  }

  /** The first `upTo` sent bytes are consumed. */
  #forget(upTo: number): void {
    this.#unconfirmed.skip(upTo - (this.#sent - this.#unconfirmed.length))
    this.#marks = this.#marks.filter((mark) => mark.sent > upTo)
  }
}
