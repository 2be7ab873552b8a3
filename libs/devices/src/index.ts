export { ApiTokens, type TokenRole } from './api-tokens.service.ts';
export { record } from './audit.ts';
export { Authority, revokedSerials, type Issued } from './authority.ts';
export { controllerName, mayUse } from './broker-acl.ts';
export { Commands } from './commands.service.ts';
export { ConfigRules, type ConfigRule, type ConfigRuleView } from './config-rules.service.ts';
export { Desired, type Assignment, type Told } from './desired.service.ts';
export * from './device.entity.ts';
export { checkLabels, Devices, unknownDevice, type DeviceView } from './devices.service.ts';
export { devicesSchema, DevicesModule } from './devices.module.ts';
export { Enrolment, type TokenRequest } from './enrolment.service.ts';
export { Reports } from './reports.service.ts';
export { selectorHints, type KnownLabels } from './selector-hints.ts';
export { matches, parseSelector, selectorSql, type Requirement } from './selector.ts';

/** SQL of one column: every bundle that a device is to run, may go back to, or says that it runs. */
export const bundlesOnDevices: readonly string[] = [
  'SELECT bundle FROM desired_workloads', 'SELECT rollback_to FROM desired_workloads WHERE rollback_to IS NOT NULL',
  "SELECT w.value ->> named.field FROM reported, jsonb_each(reported.workloads) AS w, unnest(ARRAY['running', 'previous']) AS named (field) WHERE w.value ->> named.field IS NOT NULL",
];
