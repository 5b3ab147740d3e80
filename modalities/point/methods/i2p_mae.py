I2P_MAE = None
