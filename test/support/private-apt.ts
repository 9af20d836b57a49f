/** An apt of a test's own: neither its lists nor its downloads are the machine's. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

/** Its settings by name, for apt's `-o` or a configuration file. All it has lies in `directory`; `source` is its one sources.list line. */
export async function privateApt(directory: string, source: string): Promise<Readonly<Record<string, string>>> {
  for (const part of ['lists/partial', 'cache/archives/partial']) await mkdir(join(directory, part), { recursive: true })
  await writeFile(join(directory, 'status'), '')
  await writeFile(join(directory, 'sources.list'), `${source}\n`)
  return {
    'Dir::Etc::sourcelist': join(directory, 'sources.list'),
    'Dir::Etc::sourceparts': '/dev/null',
    'Dir::State::lists': join(directory, 'lists'),
    'Dir::State::status': join(directory, 'status'),
    'Dir::Cache': join(directory, 'cache'),
    'Acquire::Languages': 'none',
  }
}
