export { ApiTokensController, AuditController, DevicesController, EnrolmentTokensController } from './devices.http.ts';
export { DevicesResolver } from './devices.graphql.ts';
