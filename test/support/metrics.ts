/** Reads Prometheus' text format, version 0.0.4, as the sandboxer answers it. */

export interface Exposed {
  /** Metric → its type */
  readonly types: ReadonlyMap<string, string>
  /** Metric → the labels that its samples carry, le of histograms' left out */
  readonly labels: ReadonlyMap<string, ReadonlySet<string>>
  /** How many series there are, each bucket one */
  readonly series: number
  /** Sum of the samples of this name that carry these labels; undefined when there is none */
  readonly value: (name: string, labels?: Readonly<Record<string, string>>) => number | undefined
}

interface Sample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

export function exposed(text: string): Exposed {
  const types = new Map<string, string>()
  const samples: Sample[] = []
  for (const line of text.split('\n')) {
    const type = /^# TYPE (\S+) (\S+)$/.exec(line)
    if (type !== null) types.set(type[1] ?? '', type[2] ?? '')
    else if (line !== '' && !line.startsWith('# HELP ')) samples.push(sample(line))
  }
  const labels = new Map([...types.keys()].map((name) => [name, new Set<string>()]))
  for (const { name, labels: carried } of samples) {
    const metric = types.has(name) ? name : name.replace(/_(bucket|sum|count)$/, '')
    const seen = labels.get(metric)
    if (seen === undefined) throw new Error(`${name} has no type`)
    for (const label of Object.keys(carried)) if (label !== 'le') seen.add(label)
  }
  return {
    types,
    labels,
    series: samples.length,
    value(name, wanted = {}) {
      const found = samples.filter((sample) => sample.name === name && Object.entries(wanted).every(([label, value]) => sample.labels[label] === value))
      return found.length === 0 ? undefined : found.reduce((sum, { value }) => sum + value, 0)
    },
  }
}

function sample(line: string): Sample {
  const [, name, labels = '', value] = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? []
  if (name === undefined) throw new Error(`not a sample: ${line}`)
  return { name, labels: Object.fromEntries([...labels.matchAll(/([a-z]+)="((?:[^"\\]|\\.)*)"/g)].map(([, label = '', text = '']) => [label, text])), value: Number(value) }
}
