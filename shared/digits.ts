/**
 * Whether `text` is a decimal number of 1 to `max` digits and nothing else. By hand, for what an agent reads while it
 * starts: V8 compiles a regular expression at its first use, whatever a start-up snapshot holds.
 */
export function isDigits(text: string, max: number): boolean {
  if (text.length === 0 || text.length > max) return false
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code < 0x30 || code > 0x39) return false
  }
  return true
}
