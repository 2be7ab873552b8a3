export { ConfigRulesController } from './config-rules.http.ts';
export { ConfigRulesResolver } from './config-rules.graphql.ts';
export { ApiTokensController, AuditController, DevicesController, EnrolmentTokensController, MeController, type DeviceDoor } from './devices.http.ts';
export { DevicesResolver } from './devices.graphql.ts';
