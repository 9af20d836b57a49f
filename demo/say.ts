/** What the demo prints as it goes. */

export function say(text: string): void {
  console.log(text)
}

/** A line that belongs to the one above it. */
export function note(text: string): void {
  console.log(`      ${text}`)
}

/** Names a step, runs it, and says how long it took. */
export async function step<T>(name: string, task: () => Promise<T>): Promise<T> {
  process.stdout.write(`  starting ${name} … `)
  const startMs = performance.now()
  try {
    const value = await task()
    console.log(`${((performance.now() - startMs) / 1000).toFixed(1)} s`)
    return value
  } catch (error) {
    console.log('failed')
    throw error
  }
}
