#!/usr/bin/env node
/**
 * A CNI plugin for the end of a chain: runs the shell script of its configuration in the pod's network namespace, and
 * hands on what the plugin before it answered. A DEL without a namespace is one more of a pod that has none any longer:
 * nothing is run. Source: the CNI specification, "DEL: remove container from network".
 */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'

const config: Readonly<Record<string, unknown>> = JSON.parse(readFileSync(0, 'utf8'))
const { CNI_COMMAND: command = '', CNI_NETNS: netns = '' } = process.env
const script = config[command.toLowerCase()]
try {
  if (command === 'VERSION') process.stdout.write('{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}')
  else if (typeof script === 'string' && netns !== '') execFileSync('nsenter', [`--net=${netns}`, 'sh', '-euc', script], { stdio: ['ignore', 'ignore', 'pipe'] })
  if (command === 'ADD') process.stdout.write(JSON.stringify(config['prevResult']))
} catch (error) {
  process.stdout.write(JSON.stringify({ cniVersion: '1.0.0', code: 100, msg: String(error) }))
  process.exitCode = 1
}
