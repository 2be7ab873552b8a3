import { digestsIn } from '@reefkeeper/registry';

const kept = "(j.state IN ('QUEUED', 'RUNNING') OR j.version_id IN (SELECT id FROM kept_versions))";

/** What jobs keep from being collected: everything that open ones and those behind a kept version were given, made and wrote down. */
export const jobRoots: readonly string[] = [
  `SELECT found #>> '{}' FROM jobs j, ${digestsIn('j.request')} WHERE ${kept}`,
  `SELECT found #>> '{}' FROM jobs j JOIN job_steps s ON s.job_id = j.id, ${digestsIn('s.output')} WHERE ${kept}`,
  `SELECT a.log_digest FROM jobs j JOIN compile_attempts a ON a.job_id = j.id WHERE a.log_digest IS NOT NULL AND ${kept}`,
  // Not yet in the step's output while it still compiles for the next runtime.
  `SELECT found #>> '{}' FROM jobs j JOIN compile_attempts a ON a.job_id = j.id, ${digestsIn('a.outputs')} WHERE j.state IN ('QUEUED', 'RUNNING')`,
];
